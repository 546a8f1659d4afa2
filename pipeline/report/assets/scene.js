// The 3D scene: viser's client plays a recording in an iframe. The page moves the camera, switches layers and marks the
// current frame by passing viser's messages to the client (its __viserMutable). Vectors are arrays of three numbers.
"use strict";

class Scene {
  constructor(frame, drive) {
    this.frame = frame;
    this.drive = drive;
    this.ready = false;
    this.size = drive.scene.point_size;
    const at = drive.scene.start;
    const query = new URLSearchParams({
      playbackPath: `../drives/${encodeURIComponent(drive.id)}/scene.viser`, darkMode: "",
      initialCameraPosition: at.position, initialCameraLookAt: at.target, initialCameraUp: drive.scene.up,
      initialCameraNear: drive.scene.near, initialCameraFar: drive.scene.far, initialCameraFov: at.fov,
    });
    frame.src = `../../viewer/index.html?${query}`;
  }

  // The client, once it has loaded the recording; null before, and for a client without __viserMutable.
  get client() {
    try { return this.frame.contentWindow.__viserMutable || null; } catch { return null; }
  }

  get isLoaded() {
    const tree = this.frame.contentWindow?.__viserSceneTree?.getState();
    return !!(this.client && tree && tree["/now"] && this.client.messageQueue.length === 0 && this.client.cameraControl);
  }

  send(...messages) {
    const client = this.client;
    if (!this.ready || !client) return;
    client.messageQueue.push(...messages);
    client.requestRender();
  }

  show(name, visible) {
    this.send({ type: "SetSceneNodeVisibilityMessage", name, visible, owner: "" });
  }

  resize(factor) {
    this.size *= factor;
    this.send(...this.drive.scene.colours.map((one) => (
      { type: "SceneNodeUpdateMessage", name: `/points/${one.name}`, updates: { point_size: this.size }, owner: "" })));
  }

  place(frame) {
    const { position, rotation } = this.drive.frames;
    if (!position[frame]) return;
    this.send(
      { type: "SetPositionMessage", name: "/now", position: position[frame], owner: "" },
      { type: "SetOrientationMessage", name: "/now", wxyz: rotation[frame], owner: "" });
  }

  look(position, target, up) {
    this.send(
      { type: "SetCameraUpDirectionMessage", position: up, initial: false },
      { type: "SetCameraPositionMessage", position, initial: false },
      { type: "SetCameraLookAtMessage", look_at: target, initial: false });
  }
}

const add = (a, b, scale = 1) => a.map((value, i) => value + scale * b[i]);
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];

function axis(quaternion, column) {
  const [w, x, y, z] = quaternion;
  if (column === 2) return [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)];
  return [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)];
}
