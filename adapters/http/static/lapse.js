// @ts-check
/**
 * The browser client of Lapse: one ES module, nothing to build, nothing it depends on.
 *
 *     import { connect } from '/static/lapse.js';
 *     const me = await connect().redeem({ name: 'Ann' });
 *     me.onExpired = ({ rule, options }) => showWhatCanBeDone(rule, options);
 *     me.start();
 *
 * Tokens travel in headers, never in a URL. What fails in the background is told to `onError`;
 * no rejection is left unhandled. docs/how-to/browser-client.md shows it at work.
 *
 * @typedef {{rel: string, method?: string, path?: string, until?: string}} Option
 *   what a page can offer whoever was refused
 * @typedef {string | (() => string | Promise<string>)} Token
 * @typedef {{kind: string, id: string | null, data: any}} LiveEvent  an event, or progress (no id)
 * @typedef {{at: string | null, rule: string | null, recoverUntil: string | null,
 *   options: Option[]}} Expired
 * @typedef {{json?: any, body?: BodyInit, headers?: Record<string, string>, signal?: AbortSignal,
 *   keepalive?: boolean, once?: boolean, tries?: number}} Sent
 *   once: with an idempotency key
 */

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const DAY = 24 * 60 * MINUTE;

const PRESENCE = 30 * SECOND;
const CHECK_EVERY = 5 * MINUTE;
/** The service sends a comment every 15 s; when three are missing the connection is dead. */
const SILENCE = 45 * SECOND;
const PARALLEL = 3;
const MOST_TRIES = 6;
const LONGEST_WAIT = 30 * SECOND;
const PREFIX = 'urn:lapse:problem:';

/** A refusal of the service (RFC 9457); status 0: it could not be reached. */
export class LapseError extends Error {
  /** @param {number} status @param {any} problem @param {number} [retryAfter] milliseconds */
  constructor(status, problem, retryAfter = 0) {
    super(problem.detail || problem.title || `HTTP status ${status}`);
    this.name = 'LapseError';
    this.status = status;
    /** @type {string} such as `urn:lapse:problem:session-expired` */
    this.type = problem.type ?? 'about:blank';
    /** @type {Option[]} */
    this.options = problem.options ?? [];
    this.problem = problem;
    this.retryAfter = retryAfter;
  }

  /** Whether the type ends so: `error.is('session-expired')`. @param {string} name */
  is(name) {
    return this.type === PREFIX + name;
  }

  /** Whether the same request may succeed a moment later. A limit that is reached stays reached. */
  get isTransient() {
    if (this.status === 429) return !this.type.startsWith(`${PREFIX}limit-`);
    return [0, 502, 503, 504].includes(this.status);
  }
}

/**
 * A connection to a service, by default the one that this module came from. Nothing is sent yet.
 * @param {{url?: string | URL, token?: Token}} [options]
 */
export function connect({ url = new URL('..', import.meta.url), token = '' } = {}) {
  dropWhatIsTooOld();
  return new Connection(String(url).replace(/\/+$/, ''), token);
}

/** The invite behind the `#` of the page's link, taken out of the address bar; null: none. */
export function inviteFromLink() {
  const invite = new URLSearchParams(location.hash.slice(1)).get('invite');
  if (invite !== null) history.replaceState(history.state, '', location.pathname + location.search);
  return invite;
}

export class Connection {
  #url;
  #token;

  /** @param {string} url @param {Token} token */
  constructor(url, token) {
    this.#url = url;
    this.#token = token;
  }

  /** The same service with another token. @param {Token} token */
  as(token) {
    return new Connection(this.#url, token);
  }

  /** Begin a session; for a producer. @param {string} policy @param {{owner?: string}} [fields] */
  async create(policy, fields = {}) {
    const json = { policy, ...fields };
    return this.session((await this.ask('POST', '/v1/sessions', { json, once: true })).id);
  }

  /** A session that is there. @param {string} id @param {string | null} [participant] */
  session(id, participant = null) {
    return new Session(this, id, participant);
  }

  /**
   * Come in by an invite: a session that acts as the new participant. If it leads nowhere, throws
   * a LapseError `invite-expired` with `options`, and in `problem` the reason.
   * @param {{invite?: string | null, name?: string, subject?: string}} [who]
   */
  async redeem({ invite = inviteFromLink(), ...who } = {}) {
    const came = await this.as(invite ?? '').ask('POST', '/v1/invites/redeem', { json: who });
    return this.as(came.access_token).session(came.session, came.token);
  }

  /**
   * One request, repeated with growing pauses while that can help and does no harm: a POST without
   * a key is not, unless the service said that it did nothing.
   * @param {string} method @param {string} path @param {Sent} [sent]
   * @returns {Promise<any>} the answer's JSON; a Blob if it is none; null without a body
   */
  async ask(method, path, { once = false, tries = MOST_TRIES, ...sent } = {}) {
    const headers = { ...sent.headers };
    if (once) headers['Idempotency-Key'] = crypto.randomUUID();
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await content(await this.open(method, path, { ...sent, headers }));
      } catch (error) {
        if (!(error instanceof LapseError && error.isTransient) || attempt >= tries) throw error;
        const nothingDone = [429, 503].includes(error.status);
        if (method === 'POST' && !once && !nothingDone) throw error;
        await pause(Math.max(error.retryAfter, backOff(attempt)), sent.signal);
      }
    }
  }

  /**
   * One request, sent once. Throws LapseError; an AbortError if `signal` ends it.
   * @param {string} method @param {string} path @param {Sent} [sent] @returns {Promise<Response>}
   */
  async open(method, path, { json, body, headers = {}, signal, keepalive = false } = {}) {
    const token = typeof this.#token === 'function' ? await this.#token() : this.#token;
    headers = { ...headers, Authorization: `Bearer ${token}` };
    if (json !== undefined) headers['Content-Type'] = 'application/json';
    if (json !== undefined) body = JSON.stringify(json);
    /** @type {RequestInit} */
    const request = { method, headers, body, signal, keepalive, cache: 'no-store' };
    const answer = await fetch(this.#url + path, request).catch((error) => {
      throw signal?.aborted ? error : new LapseError(0, { title: 'The service cannot be reached' });
    });
    if (answer.ok) return answer;
    const problem = await answer.json().catch(() => ({}));
    const retryAfter = Number(answer.headers.get('Retry-After')) || 0;
    throw new LapseError(answer.status, problem, retryAfter * SECOND);
  }
}

/**
 * One session. Set the handlers, then `start()`: heartbeats, the live stream, and a look at the
 * expiry every five minutes, for as long as the page lives.
 */
export class Session {
  /** @type {((event: LiveEvent) => void) | undefined} every event, and all progress */
  onEvent;
  /** @type {((warning: {deadline: string}) => void) | undefined} once per deadline */
  onExpiring;
  /** @type {((expired: Expired) => void) | undefined} */
  onExpired;
  /** @type {(() => void) | undefined} it lives again */
  onRecovered;
  /** @type {(() => void) | undefined} everything is gone, here too */
  onErased;
  /** @type {((error: unknown) => void) | undefined} what failed in the background */
  onError;

  #connection;
  /** @type {AbortController | null} */
  #running = null;
  /** @type {'alive' | 'expired' | 'erased'} */
  #phase = 'alive';
  #watching = false;
  /** @type {string | undefined} the id of the last event */
  #last;
  #warned = new Set();
  /** @type {string[]} */
  #dropped = [];

  /** @param {Connection} connection @param {string} id @param {string | null} participant */
  constructor(connection, id, participant) {
    this.#connection = connection;
    this.id = id;
    this.participant = participant;
  }

  // -- who takes part ---------------------------------------------------------------------------

  /**
   * Somebody takes part; for a producer. The session it returns acts as them.
   * @param {{subject?: string, name?: string}} [who]
   */
  async join(who = {}) {
    const came = await this.#ask('POST', '/participants', { json: who, once: true });
    return this.#connection.as(came.access_token).session(this.id, came.token);
  }

  /** The participant is here, said once. @param {AbortSignal} [signal] */
  seen(signal) {
    return this.#ask('POST', '/seen', { json: {}, tries: 1, signal });
  }

  /** The participant goes. keepalive: also while the page is being closed. */
  leave({ keepalive = false } = {}) {
    this.stop();
    return this.#ask('POST', '/leave', { json: {}, once: true, keepalive });
  }

  /** An invite, and the link to give away: behind `#`, where no server sees it. For a producer. */
  async invite({ uses = 1, page = location.href } = {}) {
    const made = await this.#ask('POST', '/invites', { json: { uses } });
    const hash = `#${new URLSearchParams({ invite: made.invite })}`;
    return { ...made, link: new URL(hash, page).href };
  }

  /** Who takes part, with names: personal data, so never cached. */
  async participants() {
    return (await this.#ask('GET', '/participants')).participants;
  }

  // -- its life ---------------------------------------------------------------------------------

  /** The session as it is now. */
  view() {
    return this.#ask('GET', '');
  }

  /** It shall not expire before then. @param {Date} until */
  extend(until) {
    return this.#ask('POST', '/extend', { json: { until: until.toISOString() }, once: true });
  }

  /** It lives again, until its recovery deadline; for a producer. */
  async recover() {
    const view = await this.#ask('POST', '/recover', { once: true });
    this.#lives();
    return view;
  }

  /** Erase everything at once; for a producer. */
  async erase() {
    await this.#ask('DELETE', '', { once: true });
    this.#isErased();
  }

  /** Ask whether it is over, and tell the handlers. Null: everything is erased. */
  async check() {
    try {
      const found = await this.#ask('GET', '/expiry', { signal: this.#running?.signal });
      const left = Date.parse(found.expires_at) - Date.now();
      if (found.expired) this.#isExpired(found, found.expires_at);
      else this.#lives();
      // The next look would be too late to warn, and the push that should have may be cut off.
      if (!found.expired && left > 0 && left < CHECK_EVERY) this.#warn(found.expires_at);
      return found;
    } catch (error) {
      if (this.#phase === 'erased') return null;
      throw error;
    }
  }

  // -- what is stored ---------------------------------------------------------------------------

  /**
   * Store records (JSON). @param {string} kind @param {object[]} records
   * @param {{participants?: string[], tier?: 'full' | 'summary'}} [options]
   */
  store(kind, records, { participants = this.#self(), tier = 'full' } = {}) {
    return this.#ask('POST', '/items', { json: { kind, records, participants, tier }, once: true });
  }

  /** What is stored, without content. @param {string} kind */
  async items(kind) {
    return (await this.#ask('GET', `/items?${new URLSearchParams({ kind })}`)).items;
  }

  /** One item with its content; a Blob if it is binary. @param {string} item */
  item(item) {
    return this.#ask('GET', `/items/${item}`);
  }

  /** The figures that the policy declares. While data still comes in they change: not cached. */
  summary() {
    const load = () => this.#ask('GET', '/summary');
    return this.cached('summary', load, ({ tier }) => tier !== 'full');
  }

  /** Whether this browser has a copy that is good. @param {string} name */
  hasCopy(name) {
    return readCopy(this.id, name) !== undefined;
  }

  /**
   * A result: this browser's copy, else what `load` brings. The copy is good until the result's
   * `erases_at`, or the session's, and a day at most. It goes when data of its tier is erased.
   * @template T @param {string} name @param {() => Promise<T>} load
   * @param {(found: any) => boolean} [isFinal] whether to keep it
   * @returns {Promise<T>}
   */
  async cached(name, load, isFinal = () => true) {
    const copy = readCopy(this.id, name);
    if (copy !== undefined) return copy;
    const before = this.#dropped.length;
    /** @type {any} */
    const found = await load();
    if (!isFinal(found)) return found;
    const erases = found?.erases_at ?? (await this.view()).erases_at;
    const isGone = this.#dropped.slice(before).some((scope) => concerns(scope, found?.tier));
    if (!isGone) writeCopy(this.id, name, found, erases);
    return found;
  }

  /**
   * Upload in chunks, three at a time, each with its SHA-256. To go on with one that was broken off
   * give its id: what the service has already is not sent again.
   * @param {Blob} blob
   * @param {{kind?: string, upload?: string, participants?: string[], signal?: AbortSignal,
   *   onProgress?: (progress: {upload: string, sent: number, size: number}) => void}} [options]
   * @returns {Promise<any>} the complete upload
   */
  async upload(blob, { kind = 'video', upload, participants, signal, onProgress } = {}) {
    participants ??= this.#self();
    const media_type = blob.type.split(';')[0] || null;
    const json = { kind, size: blob.size, media_type, participants };
    const begun = await (upload
      ? this.#ask('GET', `/uploads/${upload}`, { signal })
      : this.#ask('POST', '/uploads', { json, signal, once: true }));
    const path = `/uploads/${begun.id}`;
    const chunk = (/** @type {number} */ index) =>
      blob.slice(index * begun.chunk_size, (index + 1) * begun.chunk_size);
    /** @type {Set<number>} */
    const received = new Set(begun.received);
    const missing = [...Array(begun.chunks).keys()].filter((index) => !received.has(index));
    let sent = 0;
    for (const index of received) sent += chunk(index).size;
    const tell = () => onProgress?.({ upload: begun.id, sent, size: blob.size });
    const failed = new AbortController();
    const ended = signal ? AbortSignal.any([signal, failed.signal]) : failed.signal;
    const worker = async () => {
      for (let index = missing.shift(); index !== undefined; index = missing.shift()) {
        const body = await chunk(index).arrayBuffer();
        const headers = { 'Content-Digest': `sha-256=:${await sha256(body)}:` };
        await this.#ask('PUT', `${path}/chunks/${index}`, { body, headers, signal: ended });
        sent += body.byteLength;
        tell();
      }
    };
    tell();
    const workers = Array.from({ length: PARALLEL }, worker);
    try {
      await Promise.all(workers);
    } finally {
      failed.abort(); // one chunk was refused for good: the others need not go on
      await Promise.allSettled(workers);
    }
    return this.#ask('GET', path, { signal });
  }

  // -- live -------------------------------------------------------------------------------------

  /**
   * Heartbeats (of a participant), the live stream, looks at the expiry; `leave` as the page goes.
   * @param {{presence?: number}} [options] presence: milliseconds between heartbeats
   */
  start({ presence = PRESENCE } = {}) {
    if (this.#running) return;
    this.#running = new AbortController();
    const { signal } = this.#running;
    this.#follow();
    this.#every(CHECK_EVERY, () => this.#background(this.check()));
    if (this.participant === null) return;
    this.#every(presence, () => this.#phase === 'alive' && this.#background(this.seen(signal)));
    const gone = (/** @type {PageTransitionEvent} */ event) => {
      // A page that is only put aside may come back; if it does not, its presence lapses.
      if (!event.persisted) this.#background(this.leave({ keepalive: true }));
    };
    addEventListener('pagehide', gone, { signal });
  }

  /** End what `start` began. */
  stop() {
    this.#running?.abort();
    this.#running = null;
  }

  /**
   * Hear of the session until it is over. A connection that is cut is opened again, and goes on
   * behind the last event that came. @param {{after?: string, signal?: AbortSignal}} [options]
   *   after: an event's id, by default that of the last one heard
   */
  async watch({ after = this.#last, signal } = {}) {
    let last = after;
    let failures = 0;
    for (;;) {
      const silence = new AbortController();
      const ended = signal ? AbortSignal.any([signal, silence.signal]) : silence.signal;
      let timer = setTimeout(() => silence.abort(), SILENCE);
      const heard = () => {
        clearTimeout(timer);
        timer = setTimeout(() => silence.abort(), SILENCE);
      };
      try {
        /** @type {Record<string, string>} */
        const headers = last === undefined ? {} : { 'Last-Event-ID': last };
        const stream = await this.#open('GET', '/watch', { headers, signal: ended });
        // Back without an id to go on behind: something may have happened unheard.
        if (failures > 0 && last === undefined) this.#background(this.check());
        for await (const { kind, id, data } of readEvents(stream.body, heard)) {
          failures = 0;
          this.#last = last = id ?? last;
          if (data !== null) this.#hear({ kind, id, data: JSON.parse(data) });
        }
      } catch (error) {
        if (this.#phase !== 'alive' && error instanceof LapseError && error.status === 410) return;
        if (error instanceof LapseError && !error.isTransient) throw error;
      } finally {
        clearTimeout(timer);
        silence.abort(); // whatever ended it, the connection is not left open
      }
      if (signal?.aborted || this.#phase === 'erased') return;
      failures += 1;
      await pause(backOff(failures), signal);
    }
  }

  /** @param {LiveEvent} event */
  #hear(event) {
    const { kind, data } = event;
    if (kind === 'expiring') this.#warn(instant(data.deadline ?? data.data.deadline));
    if (kind === 'expired') this.#background(this.check()); // it brings what can be done
    if (kind === 'recovered') this.#lives();
    if (kind === 'reset') this.#drop('everything');
    if (kind === 'summarized') this.#drop('full');
    if (kind === 'erased') this.#drop(data.data.scope);
    if (kind === 'erased' && data.data.scope === 'everything') this.#isErased();
    this.#tell(this.onEvent, event);
  }

  /** Watch in the background, until stopped. */
  #follow() {
    if (this.#watching || !this.#running) return;
    this.#watching = true;
    const { signal } = this.#running;
    const watching = this.watch({ signal }).finally(() => (this.#watching = false));
    this.#background(watching, signal);
  }

  // -- what became of it ------------------------------------------------------------------------

  #lives() {
    if (this.#phase !== 'expired') return;
    this.#phase = 'alive';
    this.#follow();
    this.#tell(this.onRecovered, undefined);
  }

  /** @param {string} deadline */
  #warn(deadline) {
    if (this.#warned.has(Date.parse(deadline))) return;
    this.#warned.add(Date.parse(deadline));
    this.#tell(this.onExpiring, { deadline });
  }

  /** @param {any} found @param {string | null} at */
  #isExpired({ rule = null, recover_until: recoverUntil = null, options = [] }, at) {
    if (this.#phase !== 'alive') return;
    this.#phase = 'expired';
    this.#tell(this.onExpired, { at, rule, recoverUntil, options });
  }

  #isErased() {
    this.#drop('everything');
    if (this.#phase === 'erased') return;
    this.#phase = 'erased';
    this.stop();
    this.#tell(this.onErased, undefined);
  }

  /** @param {string} scope what was erased: a tier, or everything */
  #drop(scope) {
    this.#dropped.push(scope); // what is being loaded now is not kept either
    for (const key of copies(keyOf(this.id, ''))) {
      const tier = quietly(() => JSON.parse(localStorage.getItem(key) ?? '').value.tier);
      if (concerns(scope, tier)) quietly(() => localStorage.removeItem(key));
    }
  }

  // -- how it asks ------------------------------------------------------------------------------

  #self() {
    return this.participant === null ? [] : [this.participant];
  }

  /** @param {string} method @param {string} path @param {Sent} [sent] */
  #ask(method, path, sent) {
    const asked = this.#connection.ask(method, `/v1/sessions/${this.id}${path}`, sent);
    return asked.catch((error) => this.#refused(error));
  }

  /** @param {string} method @param {string} path @param {Sent} sent */
  #open(method, path, sent) {
    const asked = this.#connection.open(method, `/v1/sessions/${this.id}${path}`, sent);
    return asked.catch((error) => this.#refused(error));
  }

  /** Any refusal may be the first to say that it is over. @param {any} error @returns {never} */
  #refused(error) {
    if (error instanceof LapseError && error.is('session-erased')) this.#isErased();
    if (error instanceof LapseError && error.is('session-expired')) {
      this.#isExpired(error.problem, error.problem.expired_at);
    }
    throw error;
  }

  /** Now, and again until stopped. @param {number} period @param {() => void} act */
  #every(period, act) {
    const timer = setInterval(act, period);
    this.#running?.signal.addEventListener('abort', () => clearInterval(timer));
    act();
  }

  /** @param {Promise<unknown>} work @param {AbortSignal} [signal] */
  #background(work, signal = this.#running?.signal) {
    work.catch((error) => {
      // What is over was told, and what cannot be reached is tried again.
      const known = error instanceof LapseError && (error.isTransient || error.status === 410);
      if (!known && !signal?.aborted) this.#tell(this.onError, error);
    });
  }

  /** A mistake of a handler is reported, and stops nothing here. */
  #tell(/** @type {Function | undefined} */ handler, /** @type {unknown} */ argument) {
    try {
      handler?.call(this, argument);
    } catch (error) {
      reportError(error);
    }
  }
}

/**
 * Server-sent events, as HTML defines them. data: null for a block that only moves the id.
 * @param {ReadableStream<Uint8Array> | null} body @param {() => void} heard at every piece
 * @returns {AsyncGenerator<{kind: string, id: string | null, data: string | null}>}
 */
async function* readEvents(body, heard) {
  if (body === null) return;
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const blank = { kind: 'message', id: null, data: null };
  /** @type {{kind: string, id: string | null, data: string | null}} */
  let event = { ...blank };
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return; // what has no blank line behind it is not whole
    heard();
    // A \r at the end may be half of \r\n.
    const lines = (rest + decoder.decode(value, { stream: true })).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop() ?? '';
    for (const line of lines) {
      const [, field, text] = /^([^:]*):? ?(.*)$/s.exec(line) ?? [];
      if (line === '') {
        if (event.data !== null || event.id !== null) yield event;
        event = { ...blank };
      } else if (field === 'event') event.kind = text;
      else if (field === 'id' && !text.includes('\0')) event.id = text;
      else if (field === 'data') event.data = event.data === null ? text : `${event.data}\n${text}`;
    }
  }
}

// -- this browser's copies, each with the time until which it is good -----------------------------

/** @param {string} session @param {string} name */
const keyOf = (session, name) => `lapse:${session}:${name}`;

/** @param {string} session @param {string} name @returns {any} undefined: none that is good */
function readCopy(session, name) {
  return quietly(() => {
    const copy = JSON.parse(localStorage.getItem(keyOf(session, name)) ?? 'null');
    if (copy !== null && Date.now() < copy.until) return copy.value;
    localStorage.removeItem(keyOf(session, name));
  });
}

/** @param {string} session @param {string} name @param {any} value @param {string | null} erases */
function writeCopy(session, name, value, erases) {
  const until = Math.min(Date.now() + DAY, erases ? Date.parse(erases) : Infinity);
  quietly(() => localStorage.setItem(keyOf(session, name), JSON.stringify({ until, value })));
}

/** A copy that does not say its tier goes with any. @param {string} scope @param {string} [tier] */
const concerns = (scope, tier) => scope === 'everything' || !tier || tier === scope;

/** Sessions may have ended while no page was open. */
function dropWhatIsTooOld() {
  for (const key of copies('lapse:')) {
    const [, session, ...name] = key.split(':');
    readCopy(session, name.join(':'));
  }
}

/** @param {string} prefix @returns {string[]} their keys */
const copies = (prefix) =>
  quietly(() => Object.keys(localStorage).filter((key) => key.startsWith(prefix))) ?? [];

/** Storage may be full or forbidden, or hold nonsense: then no copy. @param {() => any} act */
function quietly(act) {
  try {
    return act();
  } catch {
    return undefined;
  }
}

// -- small things ---------------------------------------------------------------------------------

/** @param {Response} answer */
async function content(answer) {
  if (answer.status === 204) return null;
  const isJson = answer.headers.get('Content-Type')?.startsWith('application/json');
  return isJson ? answer.json() : answer.blob();
}

/** @param {ArrayBuffer} bytes @returns {Promise<string>} base64 */
async function sha256(bytes) {
  if (!crypto.subtle) throw new LapseError(0, { title: 'Uploads need a page that came by HTTPS' });
  return btoa(String.fromCharCode(...new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))));
}

/** Inside events times are microseconds, elsewhere RFC 3339. @param {number | string} time */
const instant = (time) => (typeof time === 'number' ? new Date(time / 1_000).toISOString() : time);

/** Partly by chance, so that clients that were cut off together do not come back together. */
const backOff = (/** @type {number} */ attempt) =>
  Math.min(LONGEST_WAIT, SECOND * 2 ** (attempt - 1)) * (0.5 + Math.random() / 2);

/** @param {number} time milliseconds @param {AbortSignal} [signal] @returns {Promise<void>} */
function pause(time, signal) {
  return new Promise((resolve, reject) => {
    const end = () => reject(signal?.reason);
    if (signal?.aborted) end();
    signal?.addEventListener('abort', end, { once: true });
    setTimeout(() => {
      signal?.removeEventListener('abort', end);
      resolve();
    }, time);
  });
}
