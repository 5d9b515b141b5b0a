-- Rows that change often: with room beside them the new version stays on the page, and no index has to hear of it.
alter table resource set (fillfactor = 60);
alter table work set (fillfactor = 70);
alter table operation set (fillfactor = 80);
