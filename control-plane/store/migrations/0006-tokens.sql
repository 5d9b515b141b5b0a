-- Keys that sign access tokens. The newest that is old enough for others to know it signs; all verify.
create table token_key (
  kid         text primary key,
  private_key text not null,
  created_at  timestamptz not null default now()
);

-- A user's second factor. Unconfirmed: it was shown, but nobody has proved to have it yet.
create table second_factor (
  account_id   text primary key references account (id) on delete cascade,
  secret       text not null,
  confirmed_at timestamptz,
  last_step    bigint not null default 0
);
create table recovery_code (
  account_id text not null references account (id) on delete cascade,
  code_hash  text not null,
  primary key (account_id, code_hash)
);
