"""Does again what a node in production has recorded, and says where it comes out differently."""
