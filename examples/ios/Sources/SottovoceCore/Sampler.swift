import Foundation

/// Logits → token, as `runtime/sampling.py`: penalty → hidden stops → greedy, or temperature → top-k → top-p → one uniform
/// through the inverse CDF of probabilities sorted descending, ties by logit index → repetition-aware redraw.
public struct Sampler {
    private let spec: Manifest.Sampling
    private let tokens: [Int]
    private let stops: Set<Int>
    private let seed: UInt64
    private let minTokens: Int
    private var drawn: [Int] = []

    public init(_ spec: Manifest.Sampling, head: Manifest.Head, stop: [Int], seed: UInt64, minTokens: Int = 0) {
        let tokens = head.tokens
        self.spec = spec
        self.tokens = tokens
        stops = Set(tokens.indices.filter { stop.contains(tokens[$0]) })
        self.seed = seed
        self.minTokens = minTokens
    }

    /// The next token id, or nil for a stop id.
    public mutating func draw(_ logits: [Float]) -> Int? {
        let index = choose(logits)
        drawn.append(index)
        return stops.contains(index) ? nil : tokens[index]
    }

    private func choose(_ logits: [Float]) -> Int {
        var scores = logits
        if spec.repetition_penalty != 1 {
            let penalty = Float(spec.repetition_penalty)
            for index in Set(drawn.suffix(spec.repetition_window)) {
                scores[index] = scores[index] > 0 ? scores[index] / penalty : scores[index] * penalty
            }
        }
        if drawn.count < minTokens { stops.forEach { scores[$0] = -.infinity } }
        if spec.temperature == 0 { return scores.firstIndex(of: scores.max()!)! }
        scores = scores.map { $0 / Float(spec.temperature) }
        let (first, second) = uniforms(seed: seed, token: drawn.count)
        let index = pick(scores, first, topK: spec.top_k, topP: Float(spec.top_p))
        let recent = drawn.suffix(spec.ras_window).filter { $0 == index }.count
        if spec.ras_window > 0, Double(recent) >= Double(spec.ras_window) * spec.ras_tau {
            return pick(scores, second, topK: 0, topP: 1)
        }
        return index
    }

    private func pick(_ scores: [Float], _ uniform: Float, topK: Int, topP: Float) -> Int {
        var order = scores.indices.sorted { scores[$0] > scores[$1] || (scores[$0] == scores[$1] && $0 < $1) }
        if topK > 0, topK < order.count { order.removeLast(order.count - topK) }
        let peak = scores[order[0]]
        let weights = order.map { exp(scores[$0] - peak) }
        let total = weights.reduce(0, +)
        var shares = weights.map { $0 / total }
        if topP < 1 {
            var sum: Float = 0
            let count = (shares.firstIndex { sum += $0; return sum >= topP } ?? shares.count - 1) + 1
            let kept = shares[..<count].reduce(0, +)
            shares = shares[..<count].map { $0 / kept }
        }
        var sum: Float = 0
        let place = shares.firstIndex { sum += $0; return sum > uniform } ?? shares.count
        return order[min(place, shares.filter { $0 > 0 }.count - 1)]
    }
}
