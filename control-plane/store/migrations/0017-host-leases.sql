-- lease_seq counts the leases that a host was given. Whoever says that it is lost names the last of them, so that a
-- lease given meanwhile, by whichever replica, makes the word void. lost_at: its machines may be started elsewhere, and
-- it gets no lease, until nothing is left on it that was.
-- sighting: what others have seen of a host that is not heard of; null: it is heard of. reached: another host has once
-- got through to it since it connected; null: not tried yet.
alter table host_session
  add column lease_seq bigint not null default 0,
  add column lost_at timestamptz,
  add column sighting text,
  add column reached boolean;
