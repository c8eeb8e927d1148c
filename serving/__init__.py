"""How models are exported, served and called; importing this package is light."""
