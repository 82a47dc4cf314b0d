"""Output for people and scripts: records for JSON, HTML pages, plots."""
