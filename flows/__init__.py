"""One Prefect flow a file; each reads as the diagram of the stages it chains."""
