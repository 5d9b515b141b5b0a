-- How logins to an account have gone from an address: a stranger's failures do not lock out whoever is known there.
create table login_address (
  account_id   text not null references account (id) on delete cascade,
  address      text not null,
  failures     int not null default 0,
  locked_until timestamptz,
  succeeded_at timestamptz,
  at           timestamptz not null default now(),
  primary key (account_id, address)
);
create index login_address_at on login_address (at);

-- A reply that shows a secret once, sealed with the key that is not in the database; `body` is without it.
alter table idempotency add column sealed text;

-- Events that were taken out of a project's log because they were old: up to which, and how the chain goes on
-- from there. Signed like the chain's end.
create table audit_gap (
  project   text primary key,
  seq       bigint not null,
  hash      text not null,
  until     timestamptz not null,
  signature text not null,
  kid       text not null,
  at        timestamptz not null default now()
);
create or replace function audit_append_only() returns trigger language plpgsql as $$
begin
  if tg_op = 'UPDATE' and old.seq is null and new.seq is not null
     and new.id = old.id and new.project = old.project and new.event = old.event and new.at = old.at then
    return new;
  end if;
  if tg_op = 'DELETE' and exists (select from audit_gap g where g.project = old.project and g.seq >= old.seq) then
    return old;
  end if;
  raise exception 'audit events are only ever added';
end $$;
