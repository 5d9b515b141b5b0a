-- Projects and users are resources; what is secret or must be unique stands in tables of its own.
create unique index resource_directory_name on resource (kind, name)
  where kind in ('project', 'user') and deleting_at is null;

insert into resource (id, kind, project, name, desired, phase) values
  ('root', 'project', 'root', 'root',
   '{"description": "the cloud itself", "disabled": false, "quota": {}}', 'active');
-- Whoever has an account by now is of a time when each was an administrator's own cloud.
insert into resource (id, kind, project, name, desired, observed, phase)
  select id, 'user', project, username, '{"email": null, "type": "person", "plan": "enterprise", "disabled": false}',
    '{"mfa_enabled": false}', 'active' from account;

-- An account is the secret half of a user. Null: nobody logs in with a password (service accounts).
alter table account alter column password_hash drop not null;
alter table account add constraint account_is_user foreign key (id) references resource (id) on delete cascade;

-- Who is what in which project; the role and project of `account` are only read by the release before.
create table membership (
  account_id text not null references account (id) on delete cascade,
  project    text not null references resource (id) on delete cascade,
  role       text not null check (role in ('viewer', 'operator', 'admin')),
  created_at timestamptz not null default now(),
  primary key (account_id, project)
);
create index membership_project on membership (project);
insert into membership (account_id, project, role) select id, project, role from account;

-- A key speaks for its owner in one project, with at most its own role.
alter table api_key add column project text references resource (id) on delete cascade;
alter table api_key add column role text not null default 'admin' check (role in ('viewer', 'operator', 'admin'));
alter table api_key add column read_only boolean not null default false;
alter table api_key add column expires_at timestamptz;
update api_key k set project = a.project from account a where a.id = k.account_id;

alter table refresh_token add column project text references resource (id) on delete cascade;
update refresh_token t set project = a.project from account a where a.id = t.account_id;
