// What the three example pages share: how they find elements, say things, and show that it is over.

export { connect, inviteFromLink, LapseError } from '../static/lapse.js';

export const $ = (id) => document.getElementById(id);

/** Shown, and read out by screen readers. */
export function say(text) {
  $('status').textContent = text;
}

/** Show these parts of the page and hide the others. */
export function show(...ids) {
  for (const part of document.querySelectorAll('main > section')) {
    part.hidden = !ids.includes(part.id);
  }
}

/** Run `work` for a form, a button or an input, locked meanwhile; say what went wrong. */
export function on(element, kind, work) {
  element.addEventListener(kind, async (event) => {
    event.preventDefault();
    const used = element.querySelector('button') ?? element;
    used.disabled = true;
    try {
      await work(event);
    } catch (error) {
      if (error.name !== 'AbortError') say(error.message);
    } finally {
      used.disabled = false;
    }
  });
}

/** A definition list of figures; null is one that the policy could not compute. */
export function showFigures(list, figures) {
  list.replaceChildren(
    ...Object.entries(figures).flatMap(([name, value]) => [
      element('dt', name.replaceAll('_', ' ')),
      element('dd', typeof value === 'number' ? String(Math.round(value * 1000) / 1000) : value ?? '–'),
    ]),
  );
}

export function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

const WORDS = {
  'used-up': 'This invite was used already.',
  expired: 'This invite has ended.',
  unknown: 'This invite is not known.',
  'session-expired': 'What you were invited to is over.',
  'session-erased': 'What you were invited to is over, and was erased.',
};

const OPTIONS = {
  recover: 'The host can open it again',
  create: 'Begin another one',
  'ask-for-an-invite': 'Ask whoever invited you for another invite',
  extend: 'Extend it',
};

/** The screen for what is over: what happened, when, and what can be done. */
export function showOver({ title, reason, rule, at, options = [] }) {
  show('over');
  $('over-title').textContent = title;
  $('over-reason').textContent = WORDS[reason] ?? (rule ? `By the rule ${rule}.` : '');
  $('over-at').textContent = at ? `It ended at ${clockTime(at)}.` : '';
  $('over-options').replaceChildren(
    ...options.map(({ rel, until }) =>
      element('li', (OPTIONS[rel] ?? rel) + (until ? `, until ${clockTime(until)}` : '') + '.'),
    ),
  );
  $('over-title').focus();
}

export const clockTime = (time) =>
  new Date(time).toLocaleString('en-GB', { dateStyle: 'medium', timeStyle: 'short' });
