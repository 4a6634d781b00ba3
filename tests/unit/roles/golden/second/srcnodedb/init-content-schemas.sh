# Read once, when the image makes its databases. In each it also makes the schemas uws, tap_schema and tap_upload.
CATALOGS="spaces"
SCHEMAS="vospace"
