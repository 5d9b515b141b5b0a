-- An operator has said that the host is dead: what may start elsewhere does, whatever its agent had agreed to.
alter table host_session add column lost_certain boolean not null default false;
