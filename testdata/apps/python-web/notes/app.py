"""Keeps notes in memory and serves them as JSON."""

import getpass
import os

from flask import Flask, jsonify, request

app = Flask(__name__)
_notes: list[dict] = []


@app.get("/")
def hello():
    return jsonify(service="notes", user=getpass.getuser(), uid=os.getuid(), workdir=os.getcwd())


@app.get("/notes")
def list_notes():
    return jsonify(_notes)


@app.post("/notes")
def add_note():
    note = {"id": len(_notes) + 1, "text": request.get_json()["text"]}
    _notes.append(note)
    return jsonify(note), 201
