"""Format of a store on disk, read side: layout, manifest, records and checksums."""
