import { $, connect, element, on, say, show, showFigures, showOver } from './page.js';

let me;
let file;
let upload; // its id, to go on with
let paused = new AbortController();

on($('send'), 'submit', async () => {
  [file] = $('video').files;
  const session = await connect({ token: $('token').value }).create('video-analysis');
  $('token').value = '';
  me = await session.join();
  me.onEvent = ({ kind, data }) => {
    log(kind, data.data ?? {});
    if (kind === 'analysis_complete') $('analyser').hidden = true;
    if (kind === 'completed') showResult().catch((error) => say(error.message));
  };
  me.onErased = () => {
    showFigures($('figures'), {});
    showOver({ title: 'Everything was erased', options: [{ rel: 'create' }] });
  };
  me.onError = (error) => say(error.message);
  me.start();
  show('upload', 'work');
  await send();
});

async function send() {
  paused = new AbortController();
  $('pause').hidden = false;
  $('resume').hidden = true;
  say('The video is being sent.');
  try {
    await me.upload(file, { upload, signal: paused.signal, onProgress: sentSoFar });
  } catch (error) {
    $('resume').hidden = false;
    throw error;
  } finally {
    $('pause').hidden = true;
  }
  say('The video was sent and waits to be analysed.');
  $('command').textContent = `docs/examples/analyse.py ${location.origin} ${me.id} ${upload}`;
  $('analyser').hidden = false;
}

function sentSoFar(progress) {
  upload = progress.upload;
  $('sent').max = progress.size;
  $('sent').value = progress.sent;
  $('amount').textContent = `${megabytes(progress.sent)} of ${megabytes(progress.size)} MB`;
}

const megabytes = (bytes) => (bytes / 1_000_000).toFixed(1);

on($('pause'), 'click', () => {
  paused.abort();
  say('Paused. What was sent is kept for five minutes.');
});

on($('resume'), 'click', send);

/** Notifications hold names and numbers only, never what is in the video. */
function log(kind, data) {
  const told = ['chunk', 'chunks', 'frames', 'share', 'index', 'received'];
  const numbers = told.filter((name) => name in data).map((name) => `${name} ${data[name]}`);
  $('log').append(element('li', [kind.replaceAll('_', ' '), ...numbers].join(', ')));
  $('log').scrollTop = $('log').scrollHeight;
}

async function showResult() {
  const found = await me.cached('result', async () => {
    const [stored] = await me.items('result');
    return me.item(stored.id);
  });
  showFigures($('figures'), found.records[0]);
  show('work', 'result');
  say('The analysis is complete.');
}
