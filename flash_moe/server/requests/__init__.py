"""Request bodies of the two APIs, validated, as one type."""
