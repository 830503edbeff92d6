// Landmarks of one person in one frame: [x, y, confidence] each, in pixels, as OpenPose's BODY_25.

/** The first person of an OpenPose frame; null if there is nobody. */
export function fromOpenPose(frame) {
  const [person] = frame.people ?? [];
  if (!person) return null;
  const flat = person.pose_keypoints_2d;
  return Array.from({ length: flat.length / 3 }, (_, i) => flat.slice(3 * i, 3 * i + 3));
}

/** How still somebody is: 1 / (1 + mean movement in pixels since the frame before). */
export class Stillness {
  #before = null;

  after(landmarks) {
    const moved = landmarks.flatMap(([x, y, sure], i) => {
      const [beforeX, beforeY, wasSure] = this.#before?.[i] ?? [0, 0, 0];
      return sure > 0 && wasSure > 0 ? [Math.hypot(x - beforeX, y - beforeY)] : [];
    });
    this.#before = landmarks;
    if (moved.length === 0) return 1;
    return 1 / (1 + moved.reduce((sum, one) => sum + one, 0) / moved.length);
  }
}

// Where a standing figure's points are, in a picture of 320 by 240; then which of them are joined.
const STANDING = [
  ...[[160, 40], [160, 70], [135, 72], [125, 105], [120, 135], [185, 72], [195, 105], [200, 135]],
  ...[[160, 130], [145, 132], [142, 170], [140, 210], [175, 132], [178, 170], [180, 210]],
];
const BONES = [
  ...[[0, 1], [1, 2], [2, 3], [3, 4], [1, 5], [5, 6], [6, 7], [1, 8]],
  ...[[8, 9], [9, 10], [10, 11], [8, 12], [12, 13], [13, 14]],
];

/** A figure that sways from its feet, at a time in seconds. */
export function swayingFigure(time) {
  const lean = 14 * Math.sin(time * 1.7);
  return STANDING.map(([x, y]) => [x + (lean * (210 - y)) / 170, y, 1]);
}

export function drawFigure(canvas, landmarks) {
  const pen = canvas.getContext('2d');
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.strokeStyle = getComputedStyle(canvas).color;
  pen.lineWidth = 4;
  pen.beginPath();
  for (const [from, to] of BONES) {
    pen.moveTo(landmarks[from][0], landmarks[from][1]);
    pen.lineTo(landmarks[to][0], landmarks[to][1]);
  }
  pen.stroke();
}
