-- Who refers to what, for whoever asks: an index of part of the rows serves only those who repeat its condition.
drop index resource_refs;
create index resource_refs on resource using gin (refs jsonb_path_ops);
