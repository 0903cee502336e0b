"""The meeting room of both wings: records, the sweep's folder, the table."""
