"""What people and scripts are shown: records for JSON, HTML pages, plots."""
