"""Features of records by real encoders, on Ray: each distinct content once."""
