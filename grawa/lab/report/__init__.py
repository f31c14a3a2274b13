"""Output of runs and studies: tables, pictures, pages and progress."""
