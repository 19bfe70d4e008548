"""Networks behind one `LanguageModel` interface."""
