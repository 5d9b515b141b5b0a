-- What a tombstone is of, as it was last: kinds that stay readable for a while after they have gone.
alter table tombstone add column last jsonb;
create index tombstone_last on tombstone (kind, (last ->> 'project')) where last is not null;

create view departed_resource as
select t.id, t.kind, t.last ->> 'project' as project, r.name, r.labels, r.owner, r.generation, r.observed_generation,
       r.desired, r.observed, r.refs, r.placement, r.problem, 'deleted'::text as phase, null::text as host_id, r.revision,
       r.schema_version, r.created_at, t.erased_at as updated_at, r.deleting_at
from tombstone t cross join lateral jsonb_populate_record(null::resource, t.last) r
where t.last is not null and t.erased_at > now() - interval '1 hour';
