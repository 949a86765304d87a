// An axios instance with an access token that is renewed when the server calls it invalid: once, however many requests wait.

import axios from "axios";

export class SessionOver extends Error {}

export function logIn(baseURL, username, password) {
  return axios.post("/login", { username, password }, { baseURL, maxRedirects: 0 }).then((response) => response.data);
}

export function withTokens(baseURL, tokens, onTokens = async () => {}) {
  let renewing = null;
  // Without redirects: the tokens go to this origin alone.
  const client = axios.create({ baseURL, maxRedirects: 0, allowAbsoluteUrls: false });

  client.interceptors.request.use((config) => {
    config.headers.set("Authorization", `Bearer ${tokens.access_token}`);
    return config;
  });

  client.interceptors.response.use(undefined, async (error) => {
    const { config, response } = error;
    if (response?.status !== 401 || !saysInvalid(response) || config.renewed) throw error;
    if (config.headers.get("Authorization") === `Bearer ${tokens.access_token}`) {
      renewing ??= renew().finally(() => (renewing = null));
      await renewing;
    }
    return client.request({ ...config, renewed: true });
  });

  async function renew() {
    const form = { refresh_token: tokens.refresh_token };
    const post = () => axios.post("/refresh", form, { baseURL, maxRedirects: 0, timeout: 3000 });
    try {
      // An answer that is lost may be asked for again for ten seconds.
      const { data } = await post().catch((error) => (error.response ? Promise.reject(error) : post()));
      await onTokens(data); // stored before they are used: the old ones are worth nothing then
      tokens = data;
    } catch (error) {
      if (error.response?.data?.error === "invalid_grant") throw new SessionOver("log in again");
      throw error;
    }
  }

  return client;
}

function saysInvalid(response) {
  return /\bbearer\b.*\berror="invalid_token"/i.test(response.headers["www-authenticate"] ?? "");
}
