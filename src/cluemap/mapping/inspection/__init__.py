"""What a scene holds, looked at before anything is trained."""
