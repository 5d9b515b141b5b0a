// Type-aware lint, and the import directions of the architecture as data.
import tseslint from "typescript-eslint";

const typed = { languageOptions: { parserOptions: { projectService: true } } };

/** Folder -> what it may not import. The test of boundaries reads the same table. */
export const boundaries = (await import("./boundaries.json", { with: { type: "json" } })).default;

// A later block replaces an earlier one's rule, so each folder lists what its parents forbid as well.
const restrictions = boundaries.map(({ in: folder }) => {
  const patterns = boundaries
    .filter((rule) => `${folder}/`.startsWith(`${rule.in}/`))
    .map((rule) => ({ regex: rule.never.join("|"), message: rule.because }));
  return { files: [`${folder}/**/*.ts`], rules: { "no-restricted-imports": ["error", { patterns }] } };
});

export default tseslint.config(
  { ignores: ["dist/", "proto/gen/", ".tap/", ".skerry*/", "**/*.mjs", "**/*.js", "**/*.cjs"] },
  ...tseslint.configs.recommendedTypeChecked.map((config) => ({ ...config, files: ["**/*.ts"] })),
  {
    files: ["**/*.ts"],
    ...typed,
    rules: {
      "@typescript-eslint/no-floating-promises": "error",
      "@typescript-eslint/switch-exhaustiveness-check": "error",
      "@typescript-eslint/consistent-type-imports": "error",
      "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_", varsIgnorePattern: "^_" }],
      "@typescript-eslint/restrict-template-expressions": [
        "error",
        { allowNumber: true, allowBoolean: true },
      ],
      "@typescript-eslint/require-await": "off",
      "max-lines": ["error", 800],
      eqeqeq: "error",
    },
  },
  {
    files: ["test/**/*.ts"],
    rules: {
      // tap runs subtests in order and fails the parent with them: their promises need no one to wait.
      "@typescript-eslint/no-floating-promises": [
        "error",
        { allowForKnownSafeCalls: [{ from: "package", package: "@tapjs/test", name: "test" }] },
      ],
    },
  },
  // Made by a program, and read by programs.
  { files: ["sdk/*/generated.ts"], rules: { "max-lines": "off" } },
  ...restrictions,
);
