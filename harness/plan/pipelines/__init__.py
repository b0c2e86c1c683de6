"""CI pipelines that run a suite in shards on several kinds of devices, as plain data. No torch."""
