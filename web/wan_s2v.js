// Colours for the pack's own sockets, which ComfyUI would draw grey like every type that it does not know.
import { app } from "../../scripts/app.js";

const COLOURS = {
    WAN_S2V_AUDIO: "#2ec4b6",
    WAN_S2V_POSE: "#e57399",
    WAN_S2V_DUB: "#7cb86b",
    WAN_S2V_PLAN: "#c0ca33",
    WAN_S2V_CONTINUITY: "#a5917a",
    WAN_S2V_AUDIO_GUIDANCE: "#4f9da6",
    WAN_S2V_SAMPLING_OPTIONS: "#8fa3ad",
    WAN_S2V_CLIPS: "#ff8a50",
};

/** Give a type its colour in a table of the canvas. Every change of the palette empties the types that it has no colour for. */
function keep(colours, type, ours) {
    let chosen = colours[type];
    Object.defineProperty(colours, type, { configurable: true, enumerable: true, get: () => chosen || ours, set: (colour) => (chosen = colour) });
}

app.registerExtension({
    name: "wan_s2v.sockets",
    setup() {
        const style = document.createElement("style"); // of Nodes 2.0
        style.textContent = `:root { ${Object.entries(COLOURS).map(([type, colour]) => `--color-datatype-${type}: ${colour};`).join(" ")} }`;
        document.head.append(style);
        for (const [type, colour] of Object.entries(COLOURS))
            for (const table of [app.canvas.default_connection_color_byType, LGraphCanvas.link_type_colors]) keep(table, type, colour);
    },
});
