"""Builds the int8 ONNX file of all-MiniLM-L6-v2 that ships inside ``node/memory/embedding/minilm``."""
