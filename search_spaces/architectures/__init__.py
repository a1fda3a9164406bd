"""The found network as a value: its JSON, references by name, graph, picture, export."""
