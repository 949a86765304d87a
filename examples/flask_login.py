"""Log in, be known, log out, with Flask: `flask --app flask_login run --port 8000`."""

from flask import Flask

from coatcheck.integrations.flask import Coatcheck, LoginRequired, current_user_id, login_required, session

app = Flask(__name__)
Coatcheck(app, "sqlite:///sessions.sqlite3")


@app.post("/login")
def log_in() -> str:
    session.sync.log_in("user123")  # yours checks a password first
    return "Logged in"


@app.post("/logout")
def log_out() -> str:
    session.sync.log_out()
    return "Logged out"


@app.get("/profile")
@login_required
def profile() -> str:
    return f"Hello, {current_user_id()}"


@app.get("/user/<user_id>")
def user(user_id: str) -> dict[str, str]:
    return {"id": user_id, "name": "John Doe"}


@app.errorhandler(LoginRequired)
def unauthorized(error: LoginRequired) -> tuple[str, int, dict[str, str]]:
    return "Unauthorized", 401, {"WWW-Authenticate": error.challenge}
