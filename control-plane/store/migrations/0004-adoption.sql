-- A machine that was on a host before is at most one instance.
create unique index resource_adopted on resource ((desired #>> '{adopted,host_id}'), (desired #>> '{adopted,uuid}'))
  where kind = 'instance' and desired #>> '{adopted,uuid}' is not null;
