"""Labels in the formats that other tools read. Start reading at export.py, then formats.py."""
