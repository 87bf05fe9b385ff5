"""The whole loop without people: `annotator` corrects with realistic noise, `loop` turns rounds of it into versions,
`report` says what came of it."""
