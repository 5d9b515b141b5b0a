-- Where other replicas reach a replica's gateway, for what hosts send each other through it; null of an older release.
alter table replica add column gateway text;
