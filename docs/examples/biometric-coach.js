import { $, clockTime, connect, on, say, show, showFigures, showOver } from './page.js';
import { Stillness, drawFigure, fromOpenPose, swayingFigure } from './landmarks.js';

const BATCH = 50; // frames per item
const FRAME_MS = 100;

let me;
let stillness = new Stillness();
let batch = [];
let sent = 0;

on($('start'), 'submit', async () => {
  const session = await connect({ token: $('token').value }).create('biometric-coach');
  $('token').value = '';
  follow(await session.join());
  // A session's id is no secret: with it in the address, a reload finds this browser's copy.
  history.replaceState(null, '', `#${new URLSearchParams({ session: session.id })}`);
  show('session', 'results');
  me.start();
  say('The session has begun.');
});

function follow(session) {
  me = session;
  me.onEvent = ({ kind }) => {
    if (kind === 'summarized') summarized();
  };
  me.onErased = () => {
    stopSwaying();
    showFigures($('summary'), {});
    showOver({ title: 'The session was erased', options: [{ rel: 'create' }] });
    say('Everything was erased, the copy in this browser too.');
  };
  me.onError = (error) => say(error.message);
}

// -- what is sent -----------------------------------------------------------------------------

async function add(landmarks) {
  const record = { frame: sent + batch.length, stillness: stillness.after(landmarks), landmarks };
  batch.push(record);
  showFigures($('live'), { frames: sent + batch.length, stillness: record.stillness });
  if (batch.length >= BATCH) await flush();
}

async function flush() {
  if (batch.length === 0) return;
  const full = batch;
  batch = [];
  sent += full.length;
  await me.store('landmarks', full);
}

on($('frames'), 'change', async () => {
  stopSwaying();
  stillness = new Stillness();
  for (const file of $('frames').files) {
    const landmarks = fromOpenPose(JSON.parse(await file.text()));
    if (landmarks !== null) await add(landmarks);
  }
  await flush();
  await showSummary();
  say(`${sent} frames were sent.`);
});

let swaying = null;

on($('sway'), 'click', () => {
  if (swaying !== null) {
    stopSwaying();
    return;
  }
  const begun = performance.now();
  $('sway').textContent = 'Let it rest';
  swaying = setInterval(() => {
    const landmarks = swayingFigure((performance.now() - begun) / 1_000);
    drawFigure($('figure'), landmarks);
    add(landmarks).catch((error) => say(error.message));
  }, FRAME_MS);
});

function stopSwaying() {
  clearInterval(swaying);
  swaying = null;
  $('sway').textContent = 'Let the figure sway';
}

// -- what comes back --------------------------------------------------------------------------

async function summarized() {
  stopSwaying();
  show('results');
  await showSummary().catch((error) => say(error.message));
  say('The landmarks are gone. The figures stay for half an hour.');
}

async function showSummary() {
  const from = me.hasCopy('summary') ? 'From this browser' : 'From the service';
  const found = await me.summary();
  showFigures($('summary'), found.figures);
  const until = found.erases_at ? `, kept until ${clockTime(found.erases_at)}` : '';
  $('source').textContent = `${from}${until}.`;
}

on($('ask'), 'click', showSummary);

// After a reload there is no token, but perhaps a copy.
const known = new URLSearchParams(location.hash.slice(1)).get('session');
if (known) {
  follow(connect().session(known));
  showSummary().then(
    () => show('results'),
    () => say('This browser has no figures of that session any more.'),
  );
}
