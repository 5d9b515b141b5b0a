/** `skerry password` and `skerry mfa`: how one proves who one is. */
import { Command } from "commander";
import { Fault, isFault } from "#kernel/fault.ts";
import { login } from "../../credentials.ts";
import { Transport } from "../../transport.ts";
import { ask, askSecretly, readLines } from "../asking.ts";
import { configPath, loadConfig, setProfile } from "../config.ts";
import type { Run, Session } from "../session.ts";

/** The commands about one's own password and second factor. */
export function accountCommands(run: Run): Command[] {
  const mfa = new Command("mfa").description("the second factor of one's own logins");
  mfa
    .command("enable")
    .description("show a secret for an authenticator app, and ask for a code of it")
    .action(run(enable));
  mfa
    .command("confirm")
    .description("end what `mfa enable` began, with a code of the app; shows recovery codes")
    .argument("<code>", "as the app shows it now")
    .action(run(confirm));
  mfa
    .command("disable")
    .description("log in without a code again")
    .argument("<code>", "as the app shows it now, or a recovery code")
    .action(
      run(async (session, code: string) => {
        await (await session.cloud()).account.removeFactor(code, { signal: session.signal });
        session.out.done("Logins take no code any more.", { mfa_enabled: false });
      }),
    );
  return [
    new Command("password")
      .description("change one's own password; all one's other logins end")
      .option("--password-stdin", "read the present one and the new one from standard input, a line each")
      .option("--mfa-code <code>", "to log in again with, when there is a second factor")
      .action(run(changePassword)),
    mfa,
  ];
}

interface PasswordOptions {
  readonly passwordStdin?: true;
  readonly mfaCode?: string;
}

async function changePassword(session: Session, { passwordStdin, mfaCode }: PasswordOptions): Promise<void> {
  const { signal } = session;
  const cloud = await session.cloud();
  const [current = "", password = ""] = passwordStdin
    ? await readLines(session, 2)
    : [await askSecretly(session, "Present password: "), await askNewPassword(session)];
  await cloud.account.setPassword({ current, password }, { signal });
  session.out.done("Changed your password.", {});
  await logInAgain(session, password, mfaCode);
}

/** Asked for twice: nobody sees what they type. */
export async function askNewPassword(session: Session): Promise<string> {
  const password = await askSecretly(session, "New password: ");
  if ((await askSecretly(session, "Once more: ")) === password) return password;
  throw new Fault("invalid", "these were two different passwords; nothing was changed", {
    reason: "PASSWORDS_DIFFER",
  });
}

/** The profile's login has ended with the old password. */
async function logInAgain(session: Session, password: string, mfaCode: string | undefined): Promise<void> {
  const path = configPath(session.terminal.env);
  const config = await loadConfig(path);
  const name = session.globals.profile ?? config.current;
  const profile = config.profiles[name];
  const { url } = await session.connection();
  if (!profile?.tokens || profile.username === undefined || profile.url !== url) return;
  const { username, project } = profile;
  const given = { username, password, ...(mfaCode && { mfaCode }), ...(project && { project }) };
  try {
    const tokens = await login(new Transport({ url }), given, session.signal);
    await setProfile(path, name, { ...profile, tokens });
  } catch (thrown) {
    if (!isFault(thrown)) throw thrown;
    session.note(`not logged in again (${thrown.message}): use \`skerry login\``);
  }
}

async function enable(session: Session): Promise<void> {
  const { account } = await session.cloud();
  const begun = await account.beginFactor({ signal: session.signal });
  const { secret, otpauth_url: url } = begun;
  if (!session.terminal.stdin.isTTY) {
    session.note("it counts after `skerry mfa confirm <code>`");
    return session.out.show({ ...begun }, [
      ["secret", secret],
      ["for the app", url],
    ]);
  }
  session.note(`Give this secret to your authenticator app:\n\n  ${secret}\n  ${url}\n`);
  await confirm(session, await ask(session, "Code that it shows: ", "skerry mfa confirm"));
}

async function confirm(session: Session, code: string): Promise<void> {
  const { account } = await session.cloud();
  const codes = await account.confirmFactor(code, { signal: session.signal });
  const list = codes.map((one) => `  ${one}`).join("\n");
  session.out.done(
    `Logins take a code now. Should you lose the app, each of these is good once; they are shown this once:\n${list}`,
    { mfa_enabled: true, recovery_codes: codes },
  );
}
