import { $, clockTime, connect, element, inviteFromLink, on, say, show, showOver } from './page.js';

const HOUR = 3_600_000;
const REDIRECT_SECONDS = 20;

let room; // the host's session, with the producer's token; guests have none
let me; // the same session, as a participant

const invite = inviteFromLink();
if (invite) show('guest');

on($('open'), 'submit', async () => {
  room = await connect({ token: $('token').value }).create('reading-room');
  $('token').value = '';
  await enter(await room.join({ name: $('host-name').value }));
});

on($('enter'), 'submit', async () => {
  const name = $('guest-name').value;
  try {
    await enter(await connect().redeem(name ? { invite, name } : { invite }));
  } catch (error) {
    if (error.status !== 410) throw error;
    const { reason, ended_at: at } = error.problem;
    showOver({ title: 'You cannot come in', reason, at, options: error.options });
  }
});

async function enter(session) {
  me = session;
  me.onExpiring = ({ deadline }) => {
    $('warning-text').textContent = `This room closes at ${clockTime(deadline)} if nobody stays.`;
    $('extend').dataset.deadline = deadline;
    $('warning').hidden = false;
  };
  me.onExpired = closed;
  me.onErased = () => showOver({ title: 'This room was erased' });
  me.onRecovered = opened;
  me.onEvent = ({ kind }) => {
    if (['joined', 'left', 'reset'].includes(kind)) listPeople();
  };
  me.onError = (error) => say(error.message);
  $('invite').hidden = !room;
  await opened();
  me.start();
}

async function opened() {
  show('room');
  $('warning').hidden = true;
  await Promise.all([listPeople(), tellUntil()]);
  say('You are in the room.');
}

async function listPeople() {
  try {
    const people = await me.participants();
    $('people').replaceChildren(
      ...people
        .filter((one) => one.left_at === null)
        .map((one) => element('li', `${one.name ?? 'Guest'}${one.is_active ? '' : ' (away)'}`)),
    );
  } catch (error) {
    say(error.message);
  }
}

async function tellUntil() {
  const { expires_at: at } = await me.view();
  $('until').textContent = at ? `Open until ${clockTime(at)}, longer while somebody is here.` : '';
}

on($('extend'), 'click', async () => {
  const deadline = Date.parse($('extend').dataset.deadline);
  await me.extend(new Date(deadline + HOUR));
  $('warning').hidden = true;
  await tellUntil();
  say('The room stays open an hour longer.');
});

on($('invite'), 'click', async () => {
  $('link').value = (await room.invite({ uses: 10 })).link;
  $('link-line').hidden = false;
  $('link').select();
});

on($('leave'), 'click', async () => {
  await me.leave();
  showOver({ title: 'You left the room' });
});

// -- the end ----------------------------------------------------------------------------------

let redirecting;

function closed({ at, rule, options }) {
  showOver({ title: 'This room is closed', rule, at, options });
  $('recover').hidden = !(room && options.some(({ rel }) => rel === 'recover'));
  let left = REDIRECT_SECONDS;
  $('seconds').textContent = left;
  $('redirect').hidden = false;
  clearInterval(redirecting);
  redirecting = setInterval(() => {
    left -= 1;
    $('seconds').textContent = left;
    if (left <= 0) location.replace('./');
  }, 1_000);
}

on($('remain'), 'click', () => remain());

function remain() {
  clearInterval(redirecting);
  $('redirect').hidden = true;
}

on($('recover'), 'click', async () => {
  remain();
  await room.recover();
  await me.check(); // which finds that it lives again
});
