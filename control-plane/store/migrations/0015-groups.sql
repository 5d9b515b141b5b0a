-- Who is in which group. The group's role, which its members have in its project, stands in its spec.
create table group_member (
  account_id text not null references account (id) on delete cascade,
  group_id   text not null references resource (id) on delete cascade,
  created_at timestamptz not null default now(),
  primary key (account_id, group_id)
);
create index group_member_group on group_member (group_id);

-- Who is what in which project, by themselves (no group) or by a group. Of several roles the highest counts.
create view project_role as
  select account_id, project, role, null::text as group_id, created_at from membership
  union all
  select m.account_id, g.project, g.desired ->> 'role', g.id, m.created_at
  from group_member m join resource g on g.id = m.group_id
  where g.desired ->> 'role' is not null;

create unique index resource_unique_name_2 on resource (kind, project, name)
  where kind in ('image', 'host', 'flavor', 'key_pair', 'group') and deleting_at is null;
drop index resource_unique_name;
alter index resource_unique_name_2 rename to resource_unique_name;
