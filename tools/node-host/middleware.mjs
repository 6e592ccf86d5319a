// What stands between a client and the broker: functions of a request, and of each message.
//
// A middleware has two functions, and may leave either out:
//   connect(request, context)  before a WebSocket is opened. It returns nothing, or {status, text} to refuse. What it puts
//                              into `context` is kept for the connection; `context.isKnown = true` lets the client in
//                              without the broker's own password.
//   message(payload, isText, context)  for each message. It returns nothing, or {code, text} to close the connection.

import { timingSafeEqual, createHash } from "node:crypto";

const digest = (text) => createHash("sha256").update(text).digest();

/** Lets in who brings a token, as `Authorization: Bearer` or as `?token=`, which browsers can give. */
export function authentication(tokens) {
  const known = tokens.map(digest);
  return {
    connect(request, context) {
      const bearer = /^Bearer +(\S+)$/i.exec(request.headers.authorization ?? "")?.[1];
      const token = bearer ?? new URL(request.url, "http://host").searchParams.get("token");
      const given = token === null ? null : digest(token);
      if (given === null || !known.some((one) => timingSafeEqual(one, given))) {
        return { status: 401, text: "this broker wants a token: Authorization: Bearer, or ?token=" };
      }
      context.isKnown = true;
    },
  };
}

/** Closes a connection that sends more than so many messages a second; so many at once may come first. */
export function rateLimit(perSecond, burst = perSecond) {
  return {
    connect(_request, context) {
      context.tokens = burst;
      context.filledAt = performance.now();
    },
    message(_payload, _isText, context) {
      const now = performance.now();
      context.tokens = Math.min(burst, context.tokens + ((now - context.filledAt) * perSecond) / 1000);
      context.filledAt = now;
      if (context.tokens < 1) {
        return { code: 1008, text: `more than ${perSecond} messages a second` };
      }
      context.tokens -= 1;
    },
  };
}
