-- A request is a resource that another one's pass carries out; open as long as this names that other one.
alter table resource add column request_of text;
create index resource_request_of on resource (request_of) where request_of is not null;
