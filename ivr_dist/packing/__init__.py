"""Packing: conversion of corpora to shards, indexing of existing tars, and the worker pools of both."""
