-- Logins by way of another identity provider that have been begun, until they are finished or too old.
create table oidc_login (
  state_hash   text primary key,
  verifier     text not null,
  nonce        text not null,
  redirect_uri text not null,
  project      text,
  expires_at   timestamptz not null
);
create index oidc_login_expires on oidc_login (expires_at);

-- Who somebody is at a provider. The subject stays when the address of their mail changes.
create table oidc_identity (
  issuer     text not null,
  subject    text not null,
  account_id text not null references account (id) on delete cascade,
  created_at timestamptz not null default now(),
  primary key (issuer, subject)
);
create index oidc_identity_account on oidc_identity (account_id);
