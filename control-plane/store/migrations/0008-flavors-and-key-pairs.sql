-- Who made it, by name.
alter table resource add column owner text not null default '';
create or replace view operation_resource as
select o.id, 'operation'::text as kind, o.project, o.name, '{}'::jsonb as labels, 1::bigint as generation,
       1::bigint as observed_generation,
       jsonb_build_object('operation', o.name, 'version', o.version, 'resource_id', o.resource_id, 'resource_kind', o.kind) as desired,
       jsonb_build_object('error', o.error, 'attempt', o.attempt, 'ended_at', o.ended_at,
         'steps', coalesce((select jsonb_agg(jsonb_build_object('name', s.name, 'status', s.status, 'at', s.updated_at) order by s.position)
                            from operation_step s where s.operation_id = o.id), '[]'::jsonb)) as observed,
       '{}'::jsonb as refs, null::jsonb as placement, null::jsonb as problem, o.status as phase, null::text as host_id,
       extract(epoch from o.updated_at)::bigint as revision, 1 as schema_version,
       o.created_at, o.updated_at, null::timestamptz as deleting_at, ''::text as owner
from operation o;

create unique index resource_unique_name_2 on resource (kind, project, name)
  where kind in ('image', 'host', 'flavor', 'key_pair') and deleting_at is null;
drop index resource_unique_name;
alter index resource_unique_name_2 rename to resource_unique_name;

-- Fields that instances and images have from now on, as new ones without them get them.
update resource set desired = '{"flavor": null, "key_pair": null, "description": "", "metadata": {}, "subnet": null,
  "security_groups": [], "monitoring": true}' || desired where kind = 'instance';
update resource set desired = '{"os": null, "min_disk_bytes": 0}' || desired where kind = 'image';
