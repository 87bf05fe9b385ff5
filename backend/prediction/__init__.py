"""One request to one prediction: the queue before the model, the engine, versions taking over."""
