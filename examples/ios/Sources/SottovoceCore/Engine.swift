/// What runs a package: Core ML, or whatever answers for it in a test. Caches go in and out as its own values.
public protocol Engine {
    associatedtype Value
    associatedtype State
    func value(_ tensor: Tensor) throws -> Value
    func tensor(_ value: Value) throws -> Tensor
    /// States of one stream, zeros, for `function` and those whose states have the same names.
    func makeState(_ function: String) throws -> State
    func predict(_ function: String, _ feeds: [String: Value], _ state: State?) throws -> [String: Value]
}

extension Engine {
    func values(_ tensors: [String: Tensor]) throws -> [String: Value] { try tensors.mapValues(value) }

    /// Logits of the outputs that begin so, in the order of `io`.
    func logits(_ outputs: [String: Value], _ io: Manifest.IO) throws -> [Float] {
        try io.outputs.filter { $0.name.hasPrefix("logits") }.flatMap { spec in
            guard let output = outputs[spec.name] else { throw BundleError.damaged("no output \(spec.name)") }
            return try tensor(output).values.map(Float.init)
        }
    }
}

/// Functions over the caches of one stream, which come and go with each run, or which Core ML keeps.
final class CachedFunctions<E: Engine> {
    private let engine: E
    private let function: String
    private let stateful: Bool
    private var past: [String: E.Value] = [:]
    private var state: E.State?

    init(_ engine: E, _ group: Manifest.Group, _ function: String, stateful: Bool) throws {
        (self.engine, self.function, self.stateful) = (engine, function, stateful)
        if !stateful {
            let zeros = try engine.value(Tensor([1, group.kv_heads, group.head_dim, group.slots]))
            for layer in 0..<group.layers {
                for part in ["key", "value"] { past["\(layer)_\(part)"] = zeros }
            }
        }
        try reset()
    }

    /// Another utterance: states are made anew; what is left in other caches nobody sees.
    func reset() throws { state = stateful ? try engine.makeState(function) : nil }

    /// One run; what it wrote is the next one's past.
    func run(_ function: String, _ feeds: [String: Tensor], _ more: [String: E.Value] = [:]) throws -> [String: E.Value] {
        var values = try engine.values(feeds).merging(more) { $1 }
        for (name, cache) in past { values["past_key_values_\(name)"] = cache }
        let outputs = try engine.predict(function, values, state)
        for name in past.keys { past[name] = outputs["present_\(name)"] }
        return outputs
    }
}
