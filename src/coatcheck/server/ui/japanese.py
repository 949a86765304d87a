"""The words of the page without JavaScript in Japanese, by the English ones. What is not here is said in English."""

from collections.abc import Mapping

__all__ = ["JAPANESE"]

JAPANESE: Mapping[str, str] = {
    "Address unknown": "アドレス不明",
    "All other sessions have ended.": "ほかのセッションをすべて終了しました。",
    "Back": "戻る",
    "Cookie": "Cookie",
    "End": "終了",
    "End all others": "ほかをすべて終了",
    "Last seen": "最終利用",
    "Log in": "ログイン",
    "Log out": "ログアウト",
    "Logged in": "ログイン",
    "Logged in as": "ログイン中:",
    "Not done": "実行できませんでした",
    "Password": "パスワード",
    "Remember me on this device": "この端末でログインを保持する",
    "Send a form.": "フォームを送信してください。",
    "Sessions": "セッション",
    "The session has ended.": "セッションを終了しました。",
    "This form cannot be read.": "このフォームは読み取れません。",
    "This one": "この端末",
    "Token": "トークン",
    "Username": "ユーザー名",
    "Username and password do not match.": "ユーザー名またはパスワードが違います。",
    "With JavaScript this page does more: sign up, passkeys, live connections.": (
        "JavaScript を有効にすると、登録、パスキー、接続の表示などが使えます。"
    ),
    "You are logged out.": "ログアウトしました。",
    "You have no session with this id.": "この ID のセッションはありません。",
}
