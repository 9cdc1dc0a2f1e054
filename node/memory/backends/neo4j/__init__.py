"""All of the memory in a Neo4j server: entities and observations as nodes, relations as relationships."""
