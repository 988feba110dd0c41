"""Machines in a cloud: what makes a fresh one a workspace, and the way there in Azure."""
