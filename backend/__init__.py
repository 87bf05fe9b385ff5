"""The Label Studio ML backend: requests come in, `calico` segments, predictions go out."""
