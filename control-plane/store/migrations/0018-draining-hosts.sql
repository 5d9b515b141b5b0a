-- Looked for every second, and there are few.
create index resource_draining on resource (id) where kind = 'host' and desired ->> 'draining' = 'true';
