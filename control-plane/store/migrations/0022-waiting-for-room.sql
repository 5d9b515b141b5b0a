-- Those that wait for a host, so that they are found when one gets room.
create index resource_waiting on resource (id) where problem ->> 'reason' = 'NO_HOST' and host_id is null;
