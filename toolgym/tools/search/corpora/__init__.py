"""Where passages come from: files, folders, Wikipedia dumps and data sets of the hub."""

from __future__ import annotations
